package imagestore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Names in trash/ are BOOT.KIND-HEX.RANDOM. BOOT is the boot during which the
// tree was retired; until it is over, or Collect says otherwise, a container
// may have the tree mounted. It is "dead" where no container ever could.
const bootDead = "dead"

// bootID identifies this boot of the machine (random(4)).
func bootID() (string, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	id := strings.ReplaceAll(strings.TrimSpace(string(data)), "-", "")
	if id == "" || strings.ContainsAny(id, "./") {
		return "", fmt.Errorf("%s: %q", path, id)
	}
	return id, nil
}

// retire moves a layer directory to the trash, whole.
func (s *Store) retire(dir string) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	return s.moveToTrash(dir, boot)
}

// discard moves a tree that was never a layer to the trash.
func (s *Store) discard(dir string) error { return s.moveToTrash(dir, bootDead) }

func (s *Store) moveToTrash(dir, boot string) error {
	err := os.Rename(dir, s.path(dirTrash, boot+"."+trashKey(dir)+"."+rand.Text()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// trashKey identifies a layer by the path that Mounts gave, wherever the
// store was mounted then.
func trashKey(dir string) string {
	return filepath.Base(filepath.Dir(dir)) + "-" + filepath.Base(dir)
}

// Collect deletes for good the layers that no image has any more, except those
// that inUse returns, which are paths as Mounts returned them: the layers of
// every container that runs or is being started. It is called when the layers
// to delete are known; who names a layer later finds it gone from its path, and
// opens nothing. A store whose owner never calls Collect deletes them after the
// next boot.
func (s *Store) Collect(ctx context.Context, inUse func() []string) error {
	lockFile, err := lock(ctx, s.path(fileLock))
	if err != nil {
		return fmt.Errorf("collect layers: %w", err)
	}
	err = s.sweep()
	lockFile.Close()
	if err != nil {
		return fmt.Errorf("collect layers: %w", err)
	}
	var keep map[string]bool
	return s.emptyTrash(func(_, key string) bool {
		if keep == nil {
			keep = make(map[string]bool)
			for _, dir := range inUse() {
				keep[trashKey(dir)] = true
			}
		}
		return !keep[key]
	})
}

// isDead says that nothing can have the tree mounted.
func isDead(boot, _ string) bool {
	now, err := bootID()
	return boot == bootDead || err == nil && boot != now
}

// emptyTrash deletes the trees for which gone returns true. It asks when it has
// listed them all.
func (s *Store) emptyTrash(gone func(boot, key string) bool) error {
	entries, err := os.ReadDir(s.path(dirTrash))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		boot, rest, _ := strings.Cut(e.Name(), ".")
		key, _, _ := strings.Cut(rest, ".")
		if gone(boot, key) {
			errs = append(errs, os.RemoveAll(s.path(dirTrash, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// clean removes what a crash left. If somebody else is writing there is
// nothing to do: the lock of a dead process is free.
func (s *Store) clean() error {
	lockFile, err := tryLock(s.path(fileLock))
	if errors.Is(err, errLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	err = errors.Join(s.cleanStaging(), s.cleanTemps(), s.sweep())
	lockFile.Close()
	if err != nil {
		return err
	}
	return s.emptyTrash(isDead)
}

// cleanStaging discards the staging directories that no import holds locked.
// The caller has the writer lock, under which they are made and locked.
func (s *Store) cleanStaging() error {
	entries, err := os.ReadDir(s.path(dirStaging))
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := s.path(dirStaging, e.Name())
		held, err := tryLockDir(dir)
		if errors.Is(err, errLocked) {
			continue
		}
		if err == nil {
			held.Close()
		}
		s.log.Info("removing an interrupted import", "path", dir)
		if err := s.discard(dir); err != nil {
			return err
		}
	}
	return nil
}

// cleanTemps removes temporary files of records. The caller has the writer
// lock, under which records are written.
func (s *Store) cleanTemps() error {
	for _, dir := range []string{dirRefs, dirLayerInfo, dirBlobs} {
		entries, err := os.ReadDir(s.path(dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), tempPrefix) {
				os.Remove(s.path(dir, e.Name()))
			}
		}
	}
	return nil
}

// sweep retires the layers, and removes the records and blobs, that no
// reference leads to. The caller has the writer lock. A damaged reference
// could lead to any of them, so then nothing is swept.
func (s *Store) sweep() error {
	recs, err := s.readRefs()
	if err != nil {
		s.log.Warn("layers are not swept while a record is damaged", "cause", err)
		return nil
	}
	layers, blobs := make(map[string]bool), make(map[string]bool)
	for _, rec := range recs {
		blobs[rec.ID.hex()] = true
		for _, d := range rec.Layers {
			layers[d.hex()] = true
		}
	}
	stale, err := s.host.stale()
	if err != nil {
		return err
	}
	for _, dir := range stale {
		if err := s.retire(dir); err != nil {
			return err
		}
	}
	return errors.Join(
		// The record goes first: it says that the tree is whole.
		s.sweepDir(dirLayerInfo, layers, os.Remove),
		s.sweepDir(dirLayers, layers, s.retire),
		s.sweepDir(dirBlobs, blobs, os.Remove),
	)
}

// sweepDir disposes of each entry of dir whose name is not in keep.
func (s *Store) sweepDir(dir string, keep map[string]bool, dispose func(string) error) error {
	entries, err := os.ReadDir(s.path(dir))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !keep[e.Name()] {
			errs = append(errs, dispose(s.path(dir, e.Name())))
		}
	}
	s.step(dir + " swept")
	return errors.Join(errs...)
}
