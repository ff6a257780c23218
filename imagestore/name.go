package imagestore

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// HostName is the name of the embedded image.
const HostName = "host"

const (
	defaultTag = "latest"
	// maxRepository leaves room for a tag and a suffix in one file name of
	// 255 bytes.
	maxRepository = 120
)

// ErrInvalidName is wrapped by errors about a name outside the grammar.
var ErrInvalidName = errors.New("invalid image name")

// The grammar is the one of the OCI distribution specification ("Pulling
// manifests"), lower case by design.
var (
	repositoryRE = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagRE        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,63}$`)
)

// reference is a name that was checked.
type reference struct{ repository, tag string }

// parseName checks a claimed name. A missing tag is "latest".
func parseName(claimed string) (reference, error) {
	repository, tag, tagged := strings.Cut(claimed, ":")
	if !tagged {
		tag = defaultTag
	}
	if len(repository) > maxRepository || !repositoryRE.MatchString(repository) || !tagRE.MatchString(tag) {
		return reference{}, fmt.Errorf("%w: %.200q: want name[:tag] in lower case, such as debian:12", ErrInvalidName, claimed)
	}
	if repository == HostName && tag != defaultTag {
		return reference{}, fmt.Errorf("%w: %q: the name host is reserved and has no tags", ErrInvalidName, claimed)
	}
	return reference{repository, tag}, nil
}

func (r reference) isHost() bool { return r.repository == HostName }

// String returns the short form, which leaves out the tag "latest".
func (r reference) String() string {
	if r.tag == defaultTag {
		return r.repository
	}
	return r.repository + ":" + r.tag
}

// fileName maps the reference to a file name. '+' and '@' are in neither
// grammar, so no two references share one.
func (r reference) fileName() string {
	return strings.ReplaceAll(r.repository, "/", "+") + "@" + r.tag
}

// parseFileName is the inverse of fileName.
func parseFileName(file string) (reference, error) {
	repository, tag, _ := strings.Cut(file, "@")
	ref, err := parseName(strings.ReplaceAll(repository, "+", "/") + ":" + tag)
	if err == nil && ref.fileName() != file {
		err = fmt.Errorf("%w: %q", ErrInvalidName, file)
	}
	return ref, err
}
