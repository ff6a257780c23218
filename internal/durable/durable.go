// Package durable makes what was written survive a power cut.
package durable

import (
	"errors"
	"os"
)

// SyncDir makes the names in dir durable: a file that was made, renamed or
// removed there stays so (fsync(2), which syncs a file's contents alone).
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
