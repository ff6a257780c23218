package scp

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseRecord(t *testing.T) {
	for _, test := range []struct {
		line string
		want record
	}{
		{"C0644 12 a", record{kind: 'C', mode: 0o644, size: 12, name: "a"}},
		{"C7777 0 a b ", record{kind: 'C', mode: 0o7777, name: "a b "}},
		{"C0644 9223372036854775807 ...", record{kind: 'C', mode: 0o644, size: 1<<63 - 1, name: "..."}},
		{"C0644 007 \xff", record{kind: 'C', mode: 0o644, size: 7, name: "\xff"}},
		{"D0755 0 -r", record{kind: 'D', mode: 0o755, name: "-r"}},
		{"E", record{kind: 'E'}},
		{"T1 0 2 999999", record{kind: 'T', mtime: time.Unix(1, 0), atime: time.Unix(2, 999999000)}},
		{"T9223372036 0 99999999999 0", record{kind: 'T', mtime: time.Unix(9223372036, 0), atime: time.Unix(99999999999, 0)}},
	} {
		got, err := parseRecord([]byte(test.line))
		if err != nil || !cmp.Equal(got, test.want, cmp.AllowUnexported(record{})) {
			t.Errorf("parseRecord(%q) = %+v, %v; want %+v", test.line, got, err, test.want)
		}
	}
}

// hostileNames are those that could mean another place than an entry of the
// directory, after CVE-2018-20685 and CVE-2019-6111.
var hostileNames = []string{"", ".", "..", "/", "/etc/passwd", "../x", "x/..", "x/y", "./x", "x/", "a\x00b", "\x00"}

func TestParseRecordRefuses(t *testing.T) {
	lines := []string{
		"", "X", "c0644 1 a", "\x00", "scp: No match.",
		"C", "C0644", "C0644 ", "C0644 1", "C0644 1 ", "C 1 a", "C644 1 a", "C00644 1 a", "C0648 1 a", "C-644 1 a", "C+644 1 a", "C06 4 1 a",
		"C0644  1 a", "C0644 -1 a", "C0644 +1 a", "C0644 0x1 a", "C0644 1_0 a", "C0644 1e3 a", "C0644 9223372036854775808 a", "C0644 a a",
		"C0644\t1\ta", "D0755 0",
		"T", "T1", "T1 0 2", "T1 0 2 0 ", "T1 0 2 0 3", "T-1 0 2 0", "T1 1000000 2 0", "T1 0 2 1000000", "T1 0  2 0", "T9223372036854775808 0 2 0",
	}
	for _, name := range hostileNames {
		lines = append(lines, "C0644 1 "+name, "D0755 0 "+name)
	}
	for _, line := range lines {
		if got, err := parseRecord([]byte(line)); err == nil {
			t.Errorf("parseRecord(%q) = %+v; want an error", line, got)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain: No such file": "plain: No such file",
		"ä €":                 "ä €",
		"a\nb\x1b[2J\r\x7f":   "a?b?[2J??",
		"\u009b2J":            "?2J",
		"\xff\xfe":            "?",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q; want %q", in, got, want)
		}
	}
	if got := printable(strings.Repeat("x", 1<<20)); len(got) > maxLine/2 {
		t.Errorf("printable of 1 MiB is %d bytes long", len(got))
	}
}

func TestParse(t *testing.T) {
	for _, test := range []struct {
		args string
		want invocation
		ok   bool
	}{
		{"-t x", invocation{sink: true, paths: []string{"x"}}, true},
		{"-v -r -p -d -t -- x", invocation{sink: true, recursive: true, preserve: true, directory: true, paths: []string{"x"}}, true},
		{"-rpqt x", invocation{sink: true, recursive: true, preserve: true, paths: []string{"x"}}, true},
		{"-f -- -x --", invocation{source: true, paths: []string{"-x", "--"}}, true},
		{"-f a -r", invocation{source: true, paths: []string{"a", "-r"}}, true},
		{"-f -", invocation{source: true, paths: []string{"-"}}, true},
		{"a b", invocation{paths: []string{"a", "b"}}, true},
		{"", invocation{}, true},
		{"-t -f x", invocation{}, false},
		{"-tS x", invocation{}, false},
		{"-o x -t y", invocation{}, false},
		{"--help", invocation{}, false},
	} {
		got, err := parse(strings.Fields(test.args))
		if (err == nil) != test.ok {
			t.Errorf("parse(%q) = %v; want ok %v", test.args, err, test.ok)
			continue
		}
		if len(got.paths) == 0 {
			got.paths = nil
		}
		if test.ok && !cmp.Equal(got, test.want, cmp.AllowUnexported(invocation{})) {
			t.Errorf("parse(%q) = %+v; want %+v", test.args, got, test.want)
		}
	}
}

func TestMainWithoutAHalf(t *testing.T) {
	for _, args := range [][]string{{"a", "b"}, {}, {"-r", "a", "h:b"}, {"-x"}, {"-t", "-f", "a"}} {
		var out, diag strings.Builder
		if got := Main(args, strings.NewReader(""), &out, &diag); got != 1 {
			t.Errorf("Main(%q) = %d; want 1", args, got)
		}
		if out.Len() != 0 || strings.Count(diag.String(), "\n") != 1 {
			t.Errorf("Main(%q) said %q and %q; want one line on stderr", args, out.String(), diag.String())
		}
	}
}
