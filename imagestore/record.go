package imagestore

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/carrel-sh/carrel/internal/durable"
)

// A record is a small file that is replaced as a whole:
//
//	carrel-KIND VERSION HEX\n      HEX is the SHA-256 of the body
//	BODY                           JSON, one value
//
// The version only goes up. The sum finds what a disk did, not what an
// attacker did: who can write here is root.
const (
	recordVersion = 1
	maxRecord     = 1 << 20
)

// kinds of records.
const (
	kindStore = "imagestore"
	kindRef   = "ref"
	kindLayer = "layer"
	kindHost  = "hostimage"
)

// encodeRecord returns the bytes of the record file.
func encodeRecord(kind string, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	body = append(body, '\n')
	sum := sha256.Sum256(body)
	head := fmt.Sprintf("carrel-%s %d %s\n", kind, recordVersion, hex.EncodeToString(sum[:]))
	return append([]byte(head), body...), nil
}

// decodeRecord fills v from the bytes of a record file.
func decodeRecord(kind string, data []byte, v any) error {
	head, body, ok := bytes.Cut(data, []byte("\n"))
	fields := strings.Split(string(head), " ")
	if !ok || len(fields) != 3 || fields[0] != "carrel-"+kind {
		return errors.New("damaged: not a record of this kind")
	}
	if fields[1] != fmt.Sprint(recordVersion) {
		return fmt.Errorf("format version %.20q, this program knows %d", fields[1], recordVersion)
	}
	if sum := sha256.Sum256(body); fields[2] != hex.EncodeToString(sum[:]) {
		return errors.New("damaged: checksum does not match")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("damaged: %w", err)
	}
	return nil
}

// readRecord reads the record at path into v. The error names the path.
func readRecord(kind, path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return err
	}
	if len(data) > maxRecord {
		return fmt.Errorf("record %q: larger than %d bytes", path, maxRecord)
	}
	if err := decodeRecord(kind, data, v); err != nil {
		return fmt.Errorf("record %q: %w", path, err)
	}
	return nil
}

// writeRecord replaces the record at path; it is on disk when it returns.
func writeRecord(kind, path string, v any) error {
	data, err := encodeRecord(kind, v)
	if err != nil {
		return fmt.Errorf("record %q: %w", path, err)
	}
	return writeFileSync(path, data)
}

// writeFileSync replaces the file at path: temp, fsync, rename, fsync of the
// directory.
func writeFileSync(path string, data []byte) error {
	if err := replaceFile(path, data, true); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// tempPrefix starts the names of files that are not yet what they will be.
const tempPrefix = ".new-"

// replaceFile writes a temporary file beside path and renames it over path.
func replaceFile(path string, data []byte, sync bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+"*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once renamed
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if sync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return os.Rename(f.Name(), path)
}
