package config

import (
	"os"
	"strings"
	"testing"
)

// TestManualPage: the example in carrel.toml(5) is a good file, and the page
// has every key and default.
func TestManualPage(t *testing.T) {
	text, err := os.ReadFile("../packaging/man/carrel.toml.5")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	_, example, _ := strings.Cut(page, ".EX\n")
	example, _, ok := strings.Cut(example, ".EE\n")
	if !ok {
		t.Fatal("no example")
	}
	c, err := Parse("example", []byte(example))
	if err != nil || len(c.Rules) != 2 || c.Rules[1].Limits.CPUQuotaMicros != 400_000 {
		t.Errorf("example = %+v, %v", c, err)
	}
	for _, want := range []string{
		"image", "shell", "home", "memory", "swap", "cpu_weight", "cpu_quota", "pids", "linger", "motd", "last_login", "agent_forwarding", "enforce", "login_shells", "first", "count",
		"users", "groups", "allow", "message", "freeze", "stop", "self_service",
	} {
		if !strings.Contains(page, "\n.BR "+want+" ") {
			t.Errorf("the page lacks the key %s", want)
		}
	}
	d := Default()
	for _, want := range []string{FormatSize(d.Limits.MemoryBytes), FormatSize(d.Limits.SwapBytes), d.Shell, d.LoginShells[0], d.LoginShells[1], "268304384"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks the default %s", want)
		}
	}
}
