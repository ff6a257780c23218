package session

// Oldest is the oldest version of the protocol that is spoken besides Version,
// the newest: the one before. A container runs the carrel-init that it was
// started with, through upgrades and downgrades of everything around it, and so
// does the carrelsh of an open session. They agree like this:
//
//   - Whoever is asked answers in the version that it was asked in; one that it
//     does not speak, with a Reply of Protocol in its own newest.
//   - carrelsh asks in its newest version, and again in that of such a reply.
//   - carreld asks carrel-init in the lower one of what it was asked in and what
//     the daemon that started the container spoke.
//   - On a control socket all is said in the version of the session's Spawn.
//
// A release may thus be put in the place of the one before or after it while
// sessions run. A version older than that needs new containers.
const Oldest = max(Version-1, 1)

// VersionOf returns the version that a frame was written in, 0 of an empty one.
func VersionOf(frame []byte) uint8 {
	if len(frame) == 0 {
		return 0
	}
	return frame[0]
}

// In writes a frame in an older version, which it changes. So far all have the
// same shape.
func In(version uint8, frame []byte) []byte {
	if version >= Oldest && version < Version {
		frame[0] = version
	}
	return frame
}
