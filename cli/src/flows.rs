//! `blixtctl flows`: the flows there are, printed as they come.

use std::io::{self, Write};
use std::time::Duration;

use blixt_api::Word;
use blixt_api::v1alpha1::{Flow, ListFlowsRequest, ListFlowsResponse};

use crate::amounts::duration;
use crate::connect::Failure;
use crate::explain::at;
use crate::flags::{FlowArguments, Output};
use crate::lb;

/// The question to an agent.
pub(crate) fn request(arguments: &FlowArguments) -> ListFlowsRequest {
    let protocol = arguments.protocol.map(|protocol| protocol.wire().into());
    ListFlowsRequest {
        protocol,
        states: arguments.states.iter().map(|state| state.wire().into()).collect(),
        client: arguments.client.clone(),
        vip: arguments.vip.clone(),
        snat: arguments.snat.clone(),
        endpoint: arguments.endpoint.clone(),
        service: arguments.backend.clone(),
        limit: arguments.limit,
        count_only: arguments.count,
    }
}

/// Prints flows as they come.
pub(crate) struct Printer<W> {
    out: W,
    output: Output,
    /// How wide the columns are: as the first flows need them. Those that come
    /// later and are wider push the rest of their line to the right.
    widths: Option<[usize; COLUMNS]>,
    matched: u64,
}

const COLUMNS: usize = 7;

const HEADINGS: [&str; COLUMNS] = ["PROTO", "STATE", "CLIENT", "VIP", "SNAT", "ENDPOINT", "IDLE"];

impl<W: Write> Printer<W> {
    pub(crate) fn new(out: W, output: Output) -> Self {
        Self { out, output, widths: None, matched: 0 }
    }

    /// Prints some of them.
    pub(crate) fn print(&mut self, some: &ListFlowsResponse) -> Result<(), Unprinted> {
        self.matched += some.matched;
        if some.flows.is_empty() {
            return Ok(());
        }
        match self.output {
            Output::Json => {
                for flow in &some.flows {
                    let line = serde_json::to_string(flow).map_err(Failure::Json)?;
                    writeln!(self.out, "{line}")?;
                }
            }
            Output::Table => self.lines(&some.flows)?,
        }
        // Whoever reads them may be waiting.
        Ok(self.out.flush()?)
    }

    /// Says how many there were, if only that was asked for, or that there were
    /// none.
    pub(crate) fn end(&mut self, count_only: bool) -> Result<(), Unprinted> {
        match (self.output, count_only) {
            (Output::Json, true) => {
                let sum = ListFlowsResponse { flows: vec![], matched: self.matched };
                let line = serde_json::to_string(&sum).map_err(Failure::Json)?;
                writeln!(self.out, "{line}")?;
            }
            (Output::Table, true) => writeln!(self.out, "{}", self.matched)?,
            (Output::Table, false) if self.matched == 0 => writeln!(self.out, "No such flows.")?,
            (_, false) => {}
        }
        Ok(self.out.flush()?)
    }

    fn lines(&mut self, flows: &[Flow]) -> io::Result<()> {
        let rows: Vec<_> = flows.iter().map(cells).collect();
        let widths = match self.widths {
            Some(widths) => widths,
            None => {
                let mut widths = HEADINGS.map(str::len);
                for row in &rows {
                    for (width, cell) in widths.iter_mut().zip(row) {
                        *width = (*width).max(cell.len());
                    }
                }
                self.line(&HEADINGS.map(str::to_owned), "SERVICE", widths)?;
                self.widths = Some(widths);
                widths
            }
        };
        for (row, flow) in rows.iter().zip(flows) {
            let service = flow.service.as_ref();
            let service = service.map_or_else(
                || "-".to_owned(),
                |service| format!("{}:{}", lb::name(&service.name), service.port),
            );
            self.line(row, &service, widths)?;
        }
        Ok(())
    }

    fn line(
        &mut self,
        cells: &[String; COLUMNS],
        last: &str,
        widths: [usize; COLUMNS],
    ) -> io::Result<()> {
        for (cell, width) in cells.iter().zip(widths) {
            write!(self.out, "{cell:width$}  ")?;
        }
        writeln!(self.out, "{last}")
    }
}

fn cells(flow: &Flow) -> [String; COLUMNS] {
    [
        flow.protocol().word(),
        flow.state().word(),
        at(&flow.client),
        at(&flow.vip),
        at(&flow.snat),
        at(&flow.endpoint),
        duration(Duration::from_millis(flow.idle_ms)),
    ]
}

/// Why printing ends.
#[derive(Debug)]
pub(crate) enum Unprinted {
    /// The reader has all it wants.
    Enough,
    Failed(Failure),
}

impl From<io::Error> for Unprinted {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Enough,
            _ => Self::Failed(Failure::Output(error)),
        }
    }
}

impl From<Failure> for Unprinted {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn printed(output: Output, parts: &[ListFlowsResponse], count_only: bool) -> String {
        let mut printer = Printer::new(Vec::new(), output);
        for part in parts {
            printer.print(part).unwrap();
        }
        printer.end(count_only).unwrap();
        String::from_utf8(printer.out).unwrap()
    }

    #[test]
    fn widths_are_those_of_the_first_flows() {
        let [first, second] = fixture::flows();
        let text = printed(Output::Table, &[first, second], false);
        fixture::assert_golden("flows.txt", &text);
    }

    #[test]
    fn as_json_each_is_a_line() {
        let text = printed(Output::Json, &fixture::flows(), false);
        fixture::assert_golden("flows.json", &text);
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn a_count_is_a_number_and_nothing_is_a_sentence() {
        let counts = fixture::flows().map(|part| ListFlowsResponse { flows: vec![], ..part });
        assert_eq!(printed(Output::Table, &counts, true), "3\n");
        assert_eq!(printed(Output::Json, &counts, true), "{\"flows\":[],\"matched\":3}\n");
        assert_eq!(printed(Output::Table, &[], false), "No such flows.\n");
        assert_eq!(printed(Output::Json, &[], false), "");
    }
}
