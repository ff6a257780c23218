// Package imagestore keeps the root file systems that containers start from:
// layers, stored once and unshifted, and the names that point at them.
//
// # Life of an image
//
//	Import(name, archive)             Mounts(name)           Remove(name)
//	  staging/R/root   unpacked by      reads refs/NAME,       drops refs/NAME,
//	    │ syncfs       carrel-unpack    lists directories      moves layers nobody
//	    ▼ rename, fsync                 no lock, no wait       names to trash/
//	  layers/CHAINID                                             │ Collect, or the
//	    ▼ then, each by temp, fsync, rename, fsync                ▼ next boot
//	  layerinfo/CHAINID, blobs/sha256/ID, refs/NAME             deleted
//
// A record is written after what it points at is on disk, and removed before
// it; a crash between two steps leaves something unnamed, which the next Open
// or Import clears away. Writers take one flock(2) for the few milliseconds of
// a commit, never while an archive is unpacked. Readers take none: a record is
// replaced by rename(2), so they see the old one or the new one.
//
// # Layers in use
//
// overlayfs looks names up in its lower layers lazily, so deleting files of a
// layer below a running container would make them vanish from it, and the
// kernel calls that undefined ("Changes to underlying filesystems",
// Documentation/filesystems/overlayfs.rst). What overlayfs does keep is the
// layer's top directory, wherever it is renamed to. Hence Remove renames a
// layer into trash/ and leaves it whole. It is deleted when Collect is told
// which layers are in use, or when the machine has booted since: nothing of an
// earlier boot can be mounted.
//
// # The image `host`
//
// It is always there and made of nothing but the host: a read-only view of its
// /usr, and a generated layer with the links of a merged /usr, empty
// directories, and copies of the world-readable files of /etc that are on an
// allow-list. No account, key or log of the host is in it. The layer is made
// again when a source changed, noticed by lstat(2) alone.
//
// # What an attacker controls here
//
// The bytes of an archive, all of them. They are parsed by carrel-unpack, a
// process that has no identity on the host, no network, no view of any file
// but the staging directory, and no system call it does not need; see
// imagestore/unpack. It can do two things to its parent: fill the staging
// directory, up to the bounds of ImportOptions, and send records of a small
// binary protocol, which are bounded, decoded strictly and fuzzed. It vouches
// for the digest of what it unpacked: a worker taken over by an archive could
// claim the digest of another archive, and so must never be given an archive
// that is trusted less than the images already here are.
//
// Names come from administrators and configuration and are matched against a
// strict grammar before they become file names.
package imagestore
