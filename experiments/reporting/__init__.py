"""One page about a run, about several runs, or about a comparison: read, summarise, draw, write.

``sources`` reads what lies in the folders and says what is missing, and ``live`` lets the learner act again;
``summaries`` turns both into tables and sentences; ``sections`` makes sections and their figures from what ``desk``
holds; ``pages`` puts the page together, and ``templates`` says how it looks.
"""
