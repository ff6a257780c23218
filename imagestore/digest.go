package imagestore

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// A Digest names content by its SHA-256: "sha256:" and 64 lower-case hex
// digits, as in the OCI image specification. The zero value is invalid.
type Digest string

const digestPrefix = "sha256:"

// digestOf returns the digest whose hash is sum.
func digestOf(sum [sha256.Size]byte) Digest {
	return Digest(digestPrefix + hex.EncodeToString(sum[:]))
}

// digestBytes returns the digest of data.
func digestBytes(data []byte) Digest { return digestOf(sha256.Sum256(data)) }

// check reports whether d is well formed. Only then may hex become a file name.
func (d Digest) check() error {
	hexDigits, ok := strings.CutPrefix(string(d), digestPrefix)
	if !ok || len(hexDigits) != 2*sha256.Size || strings.Trim(hexDigits, "0123456789abcdef") != "" {
		return fmt.Errorf("digest %q: not sha256: and 64 lower-case hex digits", string(d))
	}
	return nil
}

// hex returns the digits without the algorithm.
func (d Digest) hex() string { return strings.TrimPrefix(string(d), digestPrefix) }

// chainID returns the identity of the layer with the given diffID on top of
// parent, which is "" for a bottom layer (OCI image-spec, config.md,
// "Layer ChainID").
func chainID(parent, diffID Digest) Digest {
	if parent == "" {
		return diffID
	}
	return digestBytes([]byte(string(parent) + " " + string(diffID)))
}
