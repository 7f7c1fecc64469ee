"""Files that questions come in and predictions go to: query formats, KILT records, metrics and evaluation."""
