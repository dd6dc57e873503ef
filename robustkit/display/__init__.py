"""What results show of themselves in a notebook and on a prompt; `showing.Shown` looks here.

- results: a view of each result; view: what a view can do
- progress: how far a call has come, on a terminal and in a notebook
- stream: what is told on stderr, one line at a time
"""
