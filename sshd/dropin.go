package sshd

import (
	_ "embed"
	"strings"
)

const (
	// DropInPath is where the drop-in belongs. Distributions include
	// sshd_config.d/*.conf in the order of names, and the first value counts.
	DropInPath = "/etc/ssh/sshd_config.d/50-carrel.conf"
	// Group is the group whose members the drop-in is about.
	Group = "carrel"

	packagedShell = "/usr/bin/carrelsh"
)

//go:embed 50-carrel.conf
var dropIn string

// DropIn returns the text of the drop-in for a carrelsh at that path.
func DropIn(carrelsh string) string { return strings.ReplaceAll(dropIn, packagedShell, carrelsh) }

// IsDropIn reports whether text is that of DropIn for any carrelsh: nobody has
// edited it.
func IsDropIn(text string) bool {
	for line := range strings.Lines(text) {
		if shell, ok := strings.CutPrefix(strings.TrimSpace(line), "ForceCommand "); ok {
			return text == DropIn(shell)
		}
	}
	return false
}
