package spawn

import (
	"os"
	"path/filepath"
)

// runDirs are what the boot of a distribution makes in /run (tmpfiles.d(5))
// and what a program that everybody may run cannot do without: screen(1),
// which would make it set-uid, and nothing is set-uid here.
var runDirs = []string{"screen"}

// makeRunDirs makes them for everybody, as /tmp is.
func makeRunDirs(run string) {
	for _, name := range runDirs {
		path := filepath.Join(run, name)
		err := os.Mkdir(path, 0o700)
		if err == nil {
			err = os.Chmod(path, 0o777|os.ModeSticky) // whatever the umask is
		}
		if err != nil && !os.IsExist(err) {
			_, _ = os.Stderr.WriteString("carrel-init: " + err.Error() + "\n")
		}
	}
}
