package spawn

import (
	"os"
	"testing"
)

func TestParseStat(t *testing.T) {
	const line = "42 (a) b) c (d) R 7 40 39 34816 41 4194560 110"
	st, err := parseStat(line)
	want := stat{name: "a) b) c (d", parent: 7, session: 39, foreground: 41}
	if err != nil || st != want {
		t.Errorf("parseStat = %+v, %v; want %+v", st, err, want)
	}
	for _, bad := range []string{"", "1", "1 (x", "1 )x( R 1 1 1 1 1", "1 (x) R", "1 (x) R a b c d e f"} {
		if st, err := parseStat(bad); err == nil {
			t.Errorf("parseStat(%q) = %+v, nil; want an error", bad, st)
		}
	}
	if own, err := readStat(os.Getpid()); err != nil || own.parent != os.Getppid() {
		t.Errorf("readStat of ourselves = %+v, %v; want parent %d", own, err, os.Getppid())
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("42 (a) b) R 7 40 39 34816 41 4194560 110")
	f.Fuzz(func(t *testing.T, line string) {
		if st, err := parseStat(line); err == nil && len(st.name) >= len(line) {
			t.Errorf("parseStat(%q) = %+v", line, st)
		}
	})
}
