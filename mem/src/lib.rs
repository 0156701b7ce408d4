//! The few tricks Blixt plays with memory, safe on the outside.
