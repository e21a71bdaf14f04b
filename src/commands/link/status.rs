//! `mqfs link --status`: what the links of this machine tell of themselves.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use super::super::exit::{Exit, Failure};
use super::super::text::printable;
use super::{print, print_json};
use crate::link::status::{self, Snapshot, State};

/// Prints all links, or those that are named; fails when one of them is failing, or is not there.
pub fn run(names: &[String], json: bool) -> Result<(), Failure> {
    let mut links = status::all();
    let missing = names.iter().find(|name| links.iter().all(|link| link.name != **name));
    if let Some(name) = missing {
        return Err(Failure::new(Exit::Failure, format_args!("no link called {name} has run")));
    }
    links.retain(|link| names.is_empty() || names.contains(&link.name));
    if json {
        print_json(&serde_json::to_string_pretty(&links).unwrap_or_default());
    } else {
        table(&links);
    }
    match links.iter().any(|link| link.state == State::Failing) {
        true => Err(Failure::told(Exit::Failure)),
        false => Ok(()),
    }
}

fn table(links: &[Snapshot]) {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "NAME",
        "STATE",
        "MESSAGES",
        "IN FLIGHT",
        "RETRIED",
        "REFUSED",
        "DUPLICATES",
        "LAG",
        "SINCE",
        "WHY",
    ]);
    for link in links {
        let counts = [link.messages, link.in_flight, link.retried, link.refused, link.duplicates];
        let mut row = vec![link.name.clone(), link.state.word().to_owned()];
        row.extend(counts.map(|count| count.to_string()));
        row.push(link.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string()));
        row.extend([link.since.clone(), printable(&link.why)]);
        table.add_row(row);
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if at == 0 { 0 } else { 1 }, 1));
        let number = (2..8).contains(&at);
        column.set_cell_alignment(if number { CellAlignment::Right } else { CellAlignment::Left });
    }
    for line in table.to_string().lines() {
        print(line.trim_end());
    }
}
