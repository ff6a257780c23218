package spawn

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMakeRunDirs(t *testing.T) {
	run := t.TempDir()
	for range 2 { // the second time they are there
		makeRunDirs(run)
		info, err := os.Stat(filepath.Join(run, "screen"))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := info.Mode(), os.ModeDir|os.ModeSticky|0o777; got != want {
			t.Errorf("mode %v; want %v", got, want)
		}
	}
}
