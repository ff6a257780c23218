package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/carrel-sh/carrel/internal/durable"
)

// maxLayers is what one overlayfs mount takes by fsconfig(2) with one lower
// directory of the sandbox's own on top.
const maxLayers = 127

// refRecord gives a name to an image. It holds all that Mounts needs, so that
// a login reads one small file.
type refRecord struct {
	Name      string    `json:"name"`
	ID        Digest    `json:"id"`
	Created   time.Time `json:"created"`
	SizeBytes int64     `json:"size_bytes"`
	Layers    []Digest  `json:"layers"` // bottom first
}

// check reports what no writer of this package would have written.
func (r *refRecord) check(ref reference) error {
	if r.Name != ref.String() {
		return fmt.Errorf("damaged: is about image %q", r.Name)
	}
	if len(r.Layers) == 0 || len(r.Layers) > maxLayers {
		return fmt.Errorf("damaged: %d layers", len(r.Layers))
	}
	for _, d := range append([]Digest{r.ID}, r.Layers...) {
		if err := d.check(); err != nil {
			return fmt.Errorf("damaged: %w", err)
		}
	}
	return nil
}

func (r *refRecord) image() Image {
	return Image{Name: r.Name, ID: r.ID, Created: r.Created, SizeBytes: r.SizeBytes, Layers: r.Layers}
}

// readRef returns the record of ref; the error wraps ErrNotFound if there is
// none.
func (s *Store) readRef(ref reference) (*refRecord, error) {
	path := s.path(dirRefs, ref.fileName())
	rec := new(refRecord)
	err := readRecord(kindRef, path, rec)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("image %q: %w", ref, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	if err := rec.check(ref); err != nil {
		return nil, fmt.Errorf("image %q: record %q: %w", ref, path, err)
	}
	return rec, nil
}

// readRefs returns every record that can be read, by name, and an error that
// names each of the others.
func (s *Store) readRefs() ([]*refRecord, error) {
	entries, err := os.ReadDir(s.path(dirRefs))
	if err != nil {
		return nil, err
	}
	var (
		recs    []*refRecord
		damaged []error
	)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		ref, err := parseFileName(e.Name())
		if err != nil {
			damaged = append(damaged, fmt.Errorf("record %q: %w", s.path(dirRefs, e.Name()), err))
			continue
		}
		rec, err := s.readRef(ref)
		if errors.Is(err, ErrNotFound) {
			continue // removed since
		}
		if err != nil {
			damaged = append(damaged, err)
			continue
		}
		recs = append(recs, rec)
	}
	slices.SortFunc(recs, func(a, b *refRecord) int { return strings.Compare(a.Name, b.Name) })
	return recs, errors.Join(damaged...)
}

// List returns all images, `host` first, then by name. If some records are
// damaged it returns the others and an error that names the damaged ones.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	var (
		images []Image
		errs   []error
	)
	host, err := s.host.image(ctx)
	if err == nil {
		images = append(images, host)
	} else {
		errs = append(errs, err)
	}
	recs, err := s.readRefs()
	if err != nil {
		errs = append(errs, err)
	}
	for _, rec := range recs {
		images = append(images, rec.image())
	}
	return images, errors.Join(errs...)
}

// Remove takes the name away, and the layers that no other image has. The
// containers that run on them keep them, see Collect. The image `host` cannot
// be removed.
func (s *Store) Remove(ctx context.Context, name string) error {
	ref, err := parseName(name)
	if err != nil {
		return err
	}
	if ref.isHost() {
		return fmt.Errorf("image %q is built in and cannot be removed", ref)
	}
	lockFile, err := lock(ctx, s.path(fileLock))
	if err != nil {
		return fmt.Errorf("remove image %q: %w", ref, err)
	}
	err = s.removeLocked(ref)
	lockFile.Close()
	if err != nil {
		return err
	}
	return s.emptyTrash(isDead)
}

// removeLocked does not read the record, so that a damaged one can be removed.
func (s *Store) removeLocked(ref reference) error {
	err := os.Remove(s.path(dirRefs, ref.fileName()))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("image %q: %w", ref, ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("remove image %q: %w", ref, err)
	}
	s.step("ref removed")
	if err := durable.SyncDir(s.path(dirRefs)); err != nil {
		return fmt.Errorf("remove image %q: %w", ref, err)
	}
	return s.sweep()
}
