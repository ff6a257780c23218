package layer

import (
	"errors"
	"fmt"
	"strings"
)

const (
	maxPath  = 4095 // PATH_MAX of Linux, without its NUL
	maxName  = 255  // NAME_MAX
	maxDepth = 256  // bounds descriptors and stack of a recursive removal
)

// cleanPath checks a name of an archive and returns it relative to the root of
// the layer, without empty and "." components. The root itself is "".
func cleanPath(unsafeName string) (string, error) {
	switch {
	case unsafeName == "":
		return "", errors.New("name is empty")
	case len(unsafeName) > maxPath:
		return "", fmt.Errorf("name has %d bytes; at most %d are allowed", len(unsafeName), maxPath)
	case strings.Contains(unsafeName, "\x00"):
		return "", errors.New("NUL in its name")
	}
	var parts []string
	for part := range strings.SplitSeq(unsafeName, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return "", errors.New(`".." in its name`)
		case len(part) > maxName:
			return "", fmt.Errorf("a part of its name has %d bytes; at most %d are allowed", len(part), maxName)
		}
		if parts = append(parts, part); len(parts) > maxDepth {
			return "", fmt.Errorf("deeper than %d directories", maxDepth)
		}
	}
	return strings.Join(parts, "/"), nil
}

// splitPath separates a clean path into its directory, "" for the root, and
// its last component.
func splitPath(clean string) (dir, base string) {
	i := strings.LastIndexByte(clean, '/')
	return clean[:max(i, 0)], clean[i+1:]
}

// Names that say something about the layer below (layer.md, "Whiteouts"; the
// double prefix is AUFS's own).
const (
	whiteoutPrefix = ".wh."
	aufsPrefix     = ".wh..wh."
	opaqueName     = ".wh..wh..opq"
)

// isAufs reports whether some component is bookkeeping of AUFS, which old
// archives contain and every implementation skips.
func isAufs(clean string) bool {
	for part := range strings.SplitSeq(clean, "/") {
		if strings.HasPrefix(part, aufsPrefix) && part != opaqueName {
			return true
		}
	}
	return false
}
