// Package layer applies one OCI layer archive to an empty directory, as
// overlayfs wants it (OCI image-spec, layer.md; kernel,
// Documentation/filesystems/overlayfs.rst).
//
// Every byte it reads is an attacker's. It is run by carrel-unpack inside a
// jail; still nothing here relies on one:
//
//   - Names are taken apart before use. ".." is refused, leading slashes and
//     "." are dropped.
//   - A parent directory is opened with openat2(2) and RESOLVE_BENEATH,
//     NO_SYMLINKS, NO_MAGICLINKS; then only names without a slash are used,
//     below that descriptor, never following a link.
//   - A hard link leads to what the same archive brought.
//   - Device nodes are left out and counted.
//   - Archive size, entry count, name length, depth, decompression ratio and
//     memory for book-keeping have bounds.
//
// What is kept: types, modes with set-uid and sticky, owners from 0 to 65535,
// times, the attributes user.* and security.capability. When an entry appears
// twice the last one wins; a directory stays and takes the later metadata.
//
// What is not protected: the content. A layer may hold a set-uid shell.
package layer
