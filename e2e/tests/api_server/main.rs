//! The controller against a real API server: what becomes of objects, what is
//! written and what is not, who leads, and what happens when the API server
//! goes away.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

mod addresses;
mod conditions;
mod configs;
mod infrastructure;
mod leaders;
mod objects;
mod outages;
mod scraped;
mod told;
mod trust;
mod writes;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use blixt_e2e::{ApiServer, lab};
use blixt_testkit::netns::root_or_skip;
use libtest_mimic::{Arguments, Trial};

/// Every test begins with an API server without objects.
type Test = fn(&mut ApiServer);

const ROOMS: [&[(&str, Test)]; 10] = [
    conditions::TESTS,
    configs::TESTS,
    addresses::TESTS,
    writes::TESTS,
    infrastructure::TESTS,
    told::TESTS,
    leaders::TESTS,
    outages::TESTS,
    scraped::TESTS,
    trust::TESTS,
];

/// How many tests run at once, each with an API server: they mostly wait.
const AT_ONCE: usize = 2;

/// What each is called besides its name, for those who run the rest (`scripts/test`).
const KIND: &str = "API server";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(AT_ONCE).min(AT_ONCE));
    lab::require(&ApiServer::PROGRAMS);
    let tests = if root_or_skip("api_server") { ROOMS.concat() } else { Vec::new() };
    // Those that no test has at the moment. One whose test failed does not come back.
    let idle = Arc::new(Mutex::new(Vec::new()));
    let trials = tests.into_iter().map(|(name, test)| {
        let idle = Arc::clone(&idle);
        Trial::test(name, move || {
            let servers = || idle.lock().unwrap_or_else(PoisonError::into_inner);
            let free = servers().pop();
            let mut server = free.unwrap_or_else(ApiServer::start);
            objects::remove_all(&server);
            test(&mut server);
            servers().push(server);
            Ok(())
        })
        .with_kind(KIND)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
