"""Unit files of other toolkits: a reader and a writer for each, and a corpus from and to them."""
