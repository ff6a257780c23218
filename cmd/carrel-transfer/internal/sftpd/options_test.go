package sftpd

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		args string
		want options
	}{
		{"", options{}},
		{"--", options{}},
		{"-e", options{logs: true}},
		{"-R", options{readOnly: true}},
		{"-eR -l INFO -fAUTH", options{logs: true, readOnly: true}},
		{"-Rd /x -u 027", options{readOnly: true, start: "/x", hasMask: true, mask: 0o027}},
		{"-u0", options{hasMask: true}},
		{"-P open,write -p stat", options{permit: filter{denied: []string{"open", "write"}, allowed: []string{"stat"}}}},
		{"-P fsync,copy-data,posix-rename", options{permit: filter{denied: []string{"fsync", "copy-data", "posix-rename"}}}},
		{"-p whatever", options{permit: filter{allowed: []string{"whatever"}}}},
		{"-Q requests", options{query: "requests"}},
	} {
		got, err := parse(strings.Fields(test.args))
		if err != nil || !cmp.Equal(got, test.want, cmp.AllowUnexported(options{}, filter{})) {
			t.Errorf("parse(%q) = %+v, %v; want %+v", test.args, got, err, test.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct {
		args  string
		usage bool
	}{
		{"-h", true}, {"-x", true}, {"-m 600", true}, {"--help", true}, {"-u", true}, {"-eP", true},
		// An operand would hide the options behind it.
		{"x", true}, {"x -R", true}, {"-- -R", true}, {"- -R", true},
		// A denial that denies nothing must not be taken for one.
		{"-P writes", false}, {"-P open,nonsense", false}, {"-P ,", false}, {"-p ,", false},
		{"-u 8", false}, {"-u 1000", false}, {"-u -1", false}, {"-u rwx", false},
	} {
		got, err := parse(strings.Fields(test.args))
		if err == nil || errors.Is(err, errUsage) != test.usage {
			t.Errorf("parse(%q) = %+v, %v; want an error, usage %v", test.args, got, err, test.usage)
		}
	}
}

func TestStartDirectory(t *testing.T) {
	for in, want := range map[string]string{
		"/x": "/x", "%d": "/home/a", "%d/%u/%%u": "/home/a/a/%u", "x": "x", "~root/x": "/root/x",
	} {
		if got, err := startDirectory(in, "/home/a", "a"); err != nil || got != want {
			t.Errorf("startDirectory(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"%", "%h", "/x/%", "~no-such-user-here"} {
		if got, err := startDirectory(in, "/home/a", "a"); err == nil {
			t.Errorf("startDirectory(%q) = %q; want an error", in, got)
		}
	}
}

func TestFilter(t *testing.T) {
	for _, test := range []struct {
		f    filter
		name string
		want bool
	}{
		{filter{}, "open", true},
		{filter{denied: []string{"open"}}, "open", false},
		{filter{denied: []string{"open"}}, "opendir", true},
		{filter{denied: []string{"opendir"}}, "readdir", false},
		{filter{allowed: []string{"open"}}, "open", true},
		{filter{allowed: []string{"open"}}, "write", false},
		{filter{denied: []string{"open"}, allowed: []string{"open"}}, "open", false},
	} {
		if got := test.f.permits(test.name); got != test.want {
			t.Errorf("%+v permits %q = %v; want %v", test.f, test.name, got, test.want)
		}
	}
}

func TestMainStatus(t *testing.T) {
	for _, test := range []struct {
		args, in string
		status   int
		out      string
	}{
		{"", "", 0, ""},
		{"-Q requests", "", 0, strings.Join(names(), "\n") + "\n"},
		{"-Q nonsense", "", exitUsage, ""},
		{"-h", "", exitUsage, ""},
		{"-u 9", "", exitFatal, ""},
		{"-d /no/such/directory", "", 0, ""},
		{"", "\x00\x00", exitFatal, ""},
		{"-e", "\x00\x00\x00\x00", exitFatal, ""},
	} {
		var out, diag strings.Builder
		got := Main(strings.Fields(test.args), strings.NewReader(test.in), &out, &diag)
		if got != test.status || out.String() != test.out {
			t.Errorf("Main(%q) = %d, stdout %q, stderr %q; want %d, %q", test.args, got, out.String(), diag.String(), test.status, test.out)
		}
	}
}
