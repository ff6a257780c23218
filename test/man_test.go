package test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/carrel-sh/carrel/session"
)

// TestStatusTable holds the table of carrelsh(1) to the failures that exist.
func TestStatusTable(t *testing.T) {
	page, err := os.ReadFile("../packaging/man/carrelsh.1")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(page), "When there is no session, or no more,")
	if !ok {
		t.Fatal("carrelsh(1) has no table of exit statuses")
	}
	documented := make(map[int]bool)
	for line := range strings.Lines(table) {
		var status int
		if n, err := fmt.Sscanf(line, ".It %d", &status); n == 1 && err == nil {
			documented[status] = true
		}
	}
	used := make(map[int]bool)
	internal := session.Failure(255)
	for f := session.None + 1; f.Sentence("") != internal.Sentence("") || f == session.Internal; f++ {
		used[f.Status()] = true
		if !documented[f.Status()] {
			t.Errorf("carrelsh(1) does not explain status %d: %s", f.Status(), f.Sentence(""))
		}
	}
	if len(used) < 10 {
		t.Fatalf("only %d statuses are in use: the test does not find them", len(used))
	}
	for status := range documented {
		if !used[status] {
			t.Errorf("carrelsh(1) explains status %d, which nothing uses", status)
		}
	}
}
