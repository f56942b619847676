"""One page about a run, about several runs, or about a comparison: read, summarise, draw, write.

``sources`` reads what lies in the folders and says what is missing; ``summaries`` turns it into tables and sentences;
``pages`` puts figures and tables into sections; ``templates`` says how they look.
"""
