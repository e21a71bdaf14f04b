//! Of the view: node ids and lines.

#[path = "../../src/view/line_cut.rs"]
pub mod line_cut;
#[path = "../../src/view/node.rs"]
mod node;

pub use node::{Node, Via};
