package runtime

import (
	"os"

	"github.com/carrel-sh/carrel/sandbox/spec"
)

// Probe looks at a directory as its mounting will: its attributes, and what is
// in it. It comes back when the file system answers, which may be never.
func Probe(p *spec.Probe) error {
	if _, err := os.Stat(p.Path); err != nil {
		return err
	}
	dir, err := os.Open(p.Path)
	if err != nil {
		return err
	}
	defer dir.Close()
	_, err = dir.Readdirnames(1)
	return err
}
