//! What files say, as objects.
//!
//! Reading and judging the objects of 10,000 endpoints takes longer than the
//! control thread may be away from everything else. So a thread of its own does
//! it; what comes of files that change meanwhile comes together afterwards.

use std::thread;

use blixt_gateway::{Manifests, Update};
use tokio::sync::mpsc::{self, Receiver};

use super::{Watch, WatchError};

/// The objects of a directory that is watched.
#[derive(Debug)]
pub struct Objects {
    /// Each change of them, in order; an error while the directory can't be
    /// read.
    pub changes: Receiver<Result<Update, String>>,
    /// What was there at first.
    pub first: Update,
}

/// Turns what is in the files into objects, from now on.
pub fn objects(watch: Watch) -> Result<Objects, WatchError> {
    let Watch { changes: mut files, first } = watch;
    let mut manifests = Manifests::default();
    let first = manifests.update(&first);
    let (sender, changes) = mpsc::channel(1);
    thread::Builder::new()
        .name("objects".to_owned())
        .spawn(move || {
            while let Some(mut newest) = files.blocking_recv() {
                // What the files said in between is history.
                while let Ok(newer) = files.try_recv() {
                    newest = newer;
                }
                let update = newest.map(|contents| manifests.update(&contents));
                if sender.blocking_send(update).is_err() {
                    return;
                }
            }
        })
        .map_err(WatchError::Thread)?;
    Ok(Objects { changes, first })
}

#[cfg(test)]
mod tests {
    use super::super::Contents;
    use super::*;
    use blixt_gateway::Event;
    use std::time::Duration;

    fn classes(count: usize) -> Contents {
        let class = |number| {
            format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\n\
                 metadata: {{name: c{number}}}\nspec: {{controllerName: example.net/none}}\n"
            )
        };
        (0..count).map(|n| (format!("{n}.yaml"), Ok(class(n).into_bytes()))).collect()
    }

    #[test]
    fn changes_that_nobody_has_time_for_come_together() {
        const FILES: usize = 50;
        let (sender, changes) = mpsc::channel(1);
        let mut objects = objects(Watch { changes, first: classes(0) }).unwrap();
        assert_eq!(objects.first.events, []);
        let writer = thread::spawn(move || {
            // Each state has a file more.
            (1..=FILES).for_each(|count| sender.blocking_send(Ok(classes(count))).unwrap());
        });
        let mut events = 0;
        while let Some(update) = objects.changes.blocking_recv() {
            let update = update.unwrap();
            assert!(update.events.iter().all(|event| matches!(event, Event::Upsert(_))));
            events += update.events.len();
            // Somebody who has other things to do.
            thread::sleep(Duration::from_millis(3));
        }
        assert_eq!(events, FILES, "nothing is lost, nothing is told twice");
        writer.join().unwrap();
    }

    #[test]
    fn an_unreadable_directory_is_told() {
        let (sender, changes) = mpsc::channel(1);
        let mut objects = objects(Watch { changes, first: classes(1) }).unwrap();
        assert_eq!(objects.first.events.len(), 1);
        sender.blocking_send(Err("it is gone".to_owned())).unwrap();
        let told = objects.changes.blocking_recv().unwrap();
        assert_eq!(told.unwrap_err(), "it is gone");
    }
}
