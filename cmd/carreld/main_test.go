package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets the test binary be carreld where it is called so.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "carreld" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestCommandLine holds carreld to the statuses that carreld(8) names, by which
// its unit knows a mistake that another start would not mend.
func TestCommandLine(t *testing.T) {
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	mistaken := filepath.Join(t.TempDir(), "carrel.toml")
	if err := os.WriteFile(mistaken, []byte("nonsense = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	understood := exitConfig // the mistake in the file is found, so the line has none
	if os.Geteuid() != 0 {
		understood = exitNoRoot
	}
	for _, test := range []struct {
		args           string
		status         int
		stdout, stderr string
	}{
		{"-nonsense", exitUsage, "", "carreld: flag provided but not defined: -nonsense; see carreld -help\n"},
		{"-config", exitUsage, "", "carreld: flag needs an argument: -config; see carreld -help\n"},
		{"-version=perhaps", exitUsage, "", "carreld: invalid boolean value"},
		{"serve", exitUsage, "", `carreld: there are no arguments, but "serve" was given`},
		{"-version serve", exitUsage, "", "carreld: there are no arguments"},
		{"-h", 0, "-run-dir directory", ""},
		{"--help", 0, "-run-dir directory", ""},
		{"-version", 0, "carreld devel\n", ""},
		{"-config " + mistaken, understood, "", "carreld: "},
	} {
		cmd := exec.CommandContext(t.Context(), own, strings.Fields(test.args)...)
		cmd.Args[0] = "carreld"
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != test.status {
			t.Errorf("carreld %s: status %d (%v); want %d\n%s", test.args, got, err, test.status, &stderr)
		}
		for _, stream := range []struct{ name, got, want string }{{"stdout", stdout.String(), test.stdout}, {"stderr", stderr.String(), test.stderr}} {
			if !strings.Contains(stream.got, stream.want) || stream.want == "" && stream.got != "" {
				t.Errorf("carreld %s: %s %q; want %q", test.args, stream.name, stream.got, stream.want)
			}
		}
	}
}
