//! The node agent of Blixt.

fn main() {}
