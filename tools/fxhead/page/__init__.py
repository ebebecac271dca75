"""A result as a page: one file that asks the network for nothing, for screens and telephones, light and dark.

``base.html.jinja`` has the one style sheet and script of all pages, ``templates`` fills a page in, ``cells``
and ``plot`` are what tables and plots are made of. What is on a page its command says.

May import: ``show``. Start in ``templates``.
"""
