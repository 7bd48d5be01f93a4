"""A page of what is known about problems on a device: pictures and words in one HTML file without scripts.

matplotlib draws, into the page itself as SVG, and Jinja fills it in: such a page weighs some tens of KiB a
problem, opens anywhere, from a mail as well, and asks nothing of any network. The libraries that draw in the
browser would put megabytes of JavaScript into each page.
"""
