package main

import (
	"strings"
	"testing"
	"time"

	"github.com/carrel-sh/carrel/imagestore"
)

func TestProgressBar(t *testing.T) {
	var out strings.Builder
	b := progressBar{w: &out, total: 4 << 20}
	b.show(imagestore.Progress{BytesRead: 1 << 20, Entries: 10})
	b.show(imagestore.Progress{BytesRead: 2 << 20, Entries: 20}) // too soon to be drawn
	b.drawn = time.Time{}
	b.show(imagestore.Progress{BytesRead: 8 << 20, Entries: 300}) // a file that grows
	b.clear()
	first := "[#######.......................]  25%  1.00MiB, 10 files"
	last := "[##############################] 100%  8.00MiB, 300 files"
	want := "\r\r" + first + "\r" + strings.Repeat(" ", len(first)) + "\r" + last + "\r" + strings.Repeat(" ", len(last)) + "\r"
	if out.String() != want {
		t.Errorf("drawn %q; want %q", out.String(), want)
	}
	if b.last.Entries != 300 {
		t.Errorf("last = %+v", b.last)
	}
}

func TestProgressBarWithoutSize(t *testing.T) {
	b := progressBar{last: imagestore.Progress{BytesRead: 1536, Entries: 2}}
	if got, want := b.line(), "1.50KiB, 2 files"; got != want {
		t.Errorf("line = %q; want %q", got, want)
	}
}

func TestProgressBarNeedsATerminal(t *testing.T) {
	var out strings.Builder
	b := newProgressBar(&out, 10)
	b.show(imagestore.Progress{BytesRead: 5, Devices: 3})
	b.clear()
	if out.Len() > 0 || b.last.Devices != 3 {
		t.Errorf("drawn %q, last %+v; want nothing drawn, 3 devices", out.String(), b.last)
	}
}
