// Package runtime creates, starts and deletes one container with libcontainer.
// It is the inside of carrel-runtime and of nothing else: libcontainer's
// nsenter constructor runs before main in every binary that links it, so it is
// linked only where the environment is ours.
//
// # Mounts
//
// carreld starts carrel-runtime in a mount namespace of its own. There a tmpfs
// is the stage on which everything is put up that only the host's root can:
//
//	STAGE/0 … STAGE/126   the image's layers, id-mapped, read-only
//	STAGE/root            the overlay: layers below, the user's own above
//	STAGE/b0 …            read-only directories of the host, id-mapped
//	STAGE/home            the home, id-mapped to the one user
//
// libcontainer binds from the stage into the new root, resolving each target
// inside of it, and pivots. The namespace ends with carrel-runtime and takes
// the stage along; the host's mount table never knew of it.
//
// # What an attacker controls
//
// The content of every layer, and the upper layer as the user left it: any
// name may be a symlink, a FIFO or a device. Nothing here opens a path below
// the root; the topmost lower layer is ours and holds the mount points as real
// directories.
package runtime
