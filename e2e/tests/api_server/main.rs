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

const ROOMS: [&[(&str, Test)]; 9] = [
    conditions::TESTS,
    addresses::TESTS,
    writes::TESTS,
    infrastructure::TESTS,
    told::TESTS,
    leaders::TESTS,
    outages::TESTS,
    scraped::TESTS,
    trust::TESTS,
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share a server, and a controller looks at all of its objects.
    arguments.test_threads = Some(1);
    lab::require(&ApiServer::PROGRAMS);
    let tests = if root_or_skip("api_server") { ROOMS.concat() } else { Vec::new() };
    let server = Arc::new(Mutex::new(None));
    let trials = tests.into_iter().map(|(name, test)| {
        let server = Arc::clone(&server);
        Trial::test(name, move || {
            // One that failed leaves objects, which the next one removes.
            let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
            let server = server.get_or_insert_with(ApiServer::start);
            objects::remove_all(server);
            test(server);
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
