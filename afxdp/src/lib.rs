//! Moves frames between AF_XDP sockets.
