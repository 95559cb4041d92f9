"""Numbers that say how good a result is: numpy only, streamed, mergeable in any order."""
