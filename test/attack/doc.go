// Package attack logs in as a user does and attacks from inside, as that user
// and as root of the container, with what threats to a shared host are known
// to be. Each attack has a twin that succeeds where nothing protects, so that
// one that cannot succeed anywhere does not pass for a defence.
//
// What the attacker runs is the program intruder.
package attack
