package unpack

import "testing"

// What the worker does with an archive is tested where it is started as it
// will be: in imagestore, and its parts in imagestore/internal.

func TestMainUsage(t *testing.T) {
	tests := [][]string{
		nil,
		{"-max-bytes=1"},
		{"-max-entries=1"},
		{"-max-bytes=0", "-max-entries=1"},
		{"-max-bytes=-1", "-max-entries=1"},
		{"-max-bytes=1", "-max-entries=99999999999999999999"},
		{"-max-bytes=1", "-max-entries=1", "archive.tar"},
		{"-unknown"},
	}
	for _, args := range tests {
		if got := Main(args); got != exitUsage {
			t.Errorf("Main(%q) = %d; want %d", args, got, exitUsage)
		}
	}
}
