"""One page about a run, about several runs, or about a comparison: read, summarise, draw, write.

``sources`` reads the folders and reports what is missing; ``live`` loads the learner to let it act again.
``summaries`` turns both into tables and sentences, and ``sections`` into sections with figures, using the shared state
of ``desk``. ``pages`` assembles the page, and ``templates`` defines its layout.
"""
