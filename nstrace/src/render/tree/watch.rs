//! The tree as it is now, on one screen, with what has just changed.

use super::{
    super::{Text, color::Style},
    Index, Outline, Page, Recent, TreeView, words,
};
use crate::world::World;

/// Appends a screenful of `height` lines at most: the tree, in which namespaces that were
/// just born are marked `+`, and those that just died `-`. If it is longer, the last line
/// says how much more there is.
pub fn watch(out: &mut Text, world: &World, view: &TreeView, recent: &Recent, height: usize) {
    let index = Index::new(world, view, Some(recent));
    let mut whole = Text::new();
    let mut page = Page::new(&mut whole, view.width, view.color);
    words::missing(&mut page, world, view);
    let mut page = page.with_gutter();
    let outline = Outline {
        index: &index,
        view,
        recent: Some(recent),
    };
    match view.filter.kinds.is_empty() {
        true => outline.print(&mut page),
        false => outline.list(&mut page),
    }
    let whole = whole.to_string();
    let lines = whole.lines().count();
    if lines <= height {
        return out.push_lines(&whole);
    }
    let kept = height.saturating_sub(1);
    let end = whole.split_inclusive('\n').take(kept).map(str::len).sum();
    let (shown, hidden) = whole.split_at(end);
    out.push_lines(shown);
    if height > 0 {
        more(out, view, hidden);
    }
}

/// The line that says what is not on the screen.
fn more(out: &mut Text, view: &TreeView, hidden: &str) {
    let marked = |mark: Style, sign: &str| {
        let styled = format!("{}{sign}", mark.begin());
        let begins = |line: &&str| line.starts_with(&styled) || line.starts_with(sign);
        hidden.lines().filter(begins).count()
    };
    let new = marked(Style::New, "+ ");
    let gone = marked(Style::Failed, "- ");
    let mut page = Page::new(out, view.width, view.color);
    page.begin(super::page::Mark::None, 0);
    page.styled(Style::Dim, |page| {
        page.count(hidden.lines().count(), "more line", "more lines");
        if new > 0 {
            page.str(", ");
            page.number(new as u64);
            page.str(" new");
        }
        if gone > 0 {
            page.str(", ");
            page.number(gone as u64);
            page.str(" gone");
        }
    });
    page.end();
}
