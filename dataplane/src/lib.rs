//! Decides what becomes of each packet; pure.
