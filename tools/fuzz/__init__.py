"""Files that are almost right, by the thousand: a reader gives a model or an error that says what is wrong.

``corpus`` makes good files, ``mutate`` spoils them, ``targets`` reads them; ``pairs`` derives random programs
from others, which no proof may call one where they are not. ``__main__`` runs for as long as it is told
(``tools/dev fuzz``); a short run with fixed choices is among the tests.
"""
