// Package ask is how a program inside a container asks carreld about the
// container, by way of carrel-init. It is linked by carrel(1), which is in the
// image "host", and by carrel-transfer, which every container has.
package ask

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/carrel-sh/carrel/session"
)

// ErrOutside says that there is nobody to ask: this is no container.
var ErrOutside = errors.New("this is not the inside of a container")

// Own gives a command such as "carrel status" to carreld and returns what is
// to be printed, and the exit status. Whose container it is about is not said:
// it is the one around.
func Own(command string) (text string, status int, err error) { return own(session.OwnSocket, command) }

func own(socket, command string) (text string, status int, err error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return "", 0, errors.Join(ErrOutside, err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Write([]byte(command)); err != nil {
		return "", 0, err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, 1+session.MaxOwnText))
	if err != nil {
		return "", 0, err
	}
	if len(answer) == 0 {
		return "", 0, errors.New("no answer")
	}
	return string(answer[1:]), int(answer[0]), nil
}
