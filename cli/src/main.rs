//! `blixtctl`.

fn main() {}
