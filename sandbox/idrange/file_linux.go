package idrange

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/durable"
)

// version is that of the file; it only goes up.
const version = 1

// maxFile bounds what is read; a full region of 32,767 users with the longest
// names is below it.
const maxFile = 64 << 20

// ErrDamaged is wrapped by the error of Open for a table that cannot be
// trusted. Only an administrator can repair that, from a backup.
var ErrDamaged = errors.New("id table is damaged")

// The shapes on disk.
type (
	fileShape struct {
		Version int             `json:"version"`
		Table   json.RawMessage `json:"table"`
		SHA256  string          `json:"sha256"`
	}
	tableShape struct {
		First   uint32       `json:"first"`
		Entries []entryShape `json:"entries"`
	}
	entryShape struct {
		UID     uint32 `json:"uid"`
		Name    string `json:"name"`
		First   uint32 `json:"first"`
		Retired bool   `json:"retired,omitempty"`
	}
)

// encode returns the file for a region that begins at first.
func encode(first uint32, entries []Entry) ([]byte, error) {
	table := tableShape{First: first, Entries: make([]entryShape, len(entries))}
	for i, e := range entries {
		table.Entries[i] = entryShape{e.UID, e.Name, e.Range.First, e.Retired}
	}
	raw, err := json.Marshal(table)
	if err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(fileShape{version, raw, digest(raw)}, "", " ")
	return append(data, '\n'), err
}

// digest is over the compact form, so that white space does not matter.
func digest(compact []byte) string {
	sum := sha256.Sum256(compact)
	return hex.EncodeToString(sum[:])
}

// decode reads a file and accepts it only if every rule of the format holds.
// What it returns has pairwise disjoint ranges and one live entry per uid.
func decode(data []byte) (first uint32, entries []Entry, err error) {
	var f fileShape
	if err := strict(data, &f); err != nil {
		return 0, nil, err
	}
	if f.Version != version {
		return 0, nil, fmt.Errorf("version is %d, this Carrel knows %d", f.Version, version)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, f.Table); err != nil {
		return 0, nil, err
	}
	if digest(compact.Bytes()) != f.SHA256 {
		return 0, nil, errors.New("the checksum does not match")
	}
	var table tableShape
	if err := strict(f.Table, &table); err != nil {
		return 0, nil, err
	}
	live := make(map[uint32]bool)
	for i, e := range table.Entries {
		if want := uint64(table.First) + uint64(i+1)*Size; uint64(e.First) != want {
			return 0, nil, fmt.Errorf("entry %d begins at %d, not at %d", i, e.First, want)
		}
		if err := checkName(e.Name); err != nil {
			return 0, nil, fmt.Errorf("entry %d: %w", i, err)
		}
		if !e.Retired {
			if live[e.UID] {
				return 0, nil, fmt.Errorf("entry %d: uid %d has two ranges", i, e.UID)
			}
			live[e.UID] = true
		}
		entries = append(entries, Entry{e.UID, e.Name, Range{e.First}, e.Retired})
	}
	return table.First, entries, nil
}

// strict decodes exactly one JSON value with known keys only.
func strict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is something after the end")
	}
	return nil
}

// checkName accepts what JSON gives back unchanged and a log can show.
func checkName(name string) error {
	if name == "" || len(name) > 256 || !utf8.ValidString(name) { // 256 is LOGIN_NAME_MAX
		return fmt.Errorf("user name %q: %w", name, fs.ErrInvalid)
	}
	for _, c := range name {
		if !unicode.IsPrint(c) || c == ':' || c == '/' {
			return fmt.Errorf("user name %q: %w", name, fs.ErrInvalid)
		}
	}
	return nil
}

// A step is one of those after which a crash leaves another state on disk.
type step string

const (
	stepCreate   step = "create the temporary file"
	stepWrite    step = "write it"
	stepSync     step = "sync it"
	stepRename   step = "rename it"
	stepSyncDir  step = "sync the directory"
	stepMark     step = "mark the lock file"
	stepFinished step = "finish"
)

// replace puts data in the place of path, durably. hook is called before each
// step, for tests; its error ends the replacement there and then.
func replace(path string, data []byte, hook func(step) error) error {
	if err := hook(stepCreate); err != nil {
		return err
	}
	temp := path + ".new" // the lock makes it ours; a left-over is overwritten
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(f, data, hook), f.Close()); err != nil {
		return err
	}
	if err := hook(stepRename); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	if err := hook(stepSyncDir); err != nil {
		return err
	}
	if err := durable.SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	return hook(stepFinished)
}

func fill(f *os.File, data []byte, hook func(step) error) error {
	if err := hook(stepWrite); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := hook(stepSync); err != nil {
		return err
	}
	return f.Sync()
}

// readFile reads at most maxFile bytes of a regular file.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")})
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = &fs.PathError{Op: "read", Path: path, Err: errors.New("too large")}
	}
	return data, err
}
