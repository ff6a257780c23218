package main

// headConn is the connection on which headStart has sent the request, -1 if
// it has not. It is written before the runtime starts and never again.
var headConn int32 = -1
