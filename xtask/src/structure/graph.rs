//! Circles in a directed graph of names.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Nodes, each with those that it points at.
pub(super) type Graph = BTreeMap<String, BTreeSet<String>>;

/// Groups of two or more nodes that all reach each other, sorted.
pub(super) fn knots(graph: &Graph) -> Vec<BTreeSet<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        graph.keys().map(|node| (node, reachable(graph, node))).collect();
    let mut knots = BTreeSet::new();
    for (node, there) in &reach {
        let knot: BTreeSet<String> = there
            .iter()
            .filter(|other| reach.get(**other).is_some_and(|back| back.contains(node)))
            .map(|other| (*other).clone())
            .collect();
        if knot.len() > 1 {
            knots.insert(knot);
        }
    }
    knots.into_iter().collect()
}

/// A shortest circle through the first node of `knot`: its nodes in order, the first one again at the end.
pub(super) fn circle(graph: &Graph, knot: &BTreeSet<String>) -> Vec<String> {
    let Some(start) = knot.first() else { return Vec::new() };
    let mut from: BTreeMap<&String, &String> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for next in graph.get(node).into_iter().flatten().filter(|next| knot.contains(*next)) {
            if next == start {
                let mut nodes = vec![start.clone(), node.clone()];
                let mut node = node;
                while let Some(before) = from.get(node) {
                    nodes.push((*before).clone());
                    node = before;
                }
                if nodes.last() != Some(start) {
                    nodes.push(start.clone());
                }
                nodes.reverse();
                return nodes;
            }
            if !from.contains_key(next) {
                from.insert(next, node);
                queue.push_back(next);
            }
        }
    }
    Vec::new()
}

/// Everything that a path of at least one step leads to from `node`.
fn reachable<'a>(graph: &'a Graph, node: &'a String) -> BTreeSet<&'a String> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&String> = graph.get(node).into_iter().flatten().collect();
    while let Some(next) = open.pop() {
        if seen.insert(next) {
            open.extend(graph.get(next).into_iter().flatten());
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect();
        edges.iter().map(|(node, targets)| ((*node).to_owned(), names(targets))).collect()
    }

    #[test]
    fn knots_are_what_reaches_itself() {
        let graph = graph(&[
            ("a", &["b"]),
            ("b", &["c", "e"]),
            ("c", &["a", "b", "d"]),
            ("d", &["e"]),
            ("e", &["f"]),
            ("f", &["e"]),
        ]);
        let knots = knots(&graph);
        let shown: Vec<Vec<&str>> =
            knots.iter().map(|knot| knot.iter().map(String::as_str).collect()).collect();
        assert_eq!(shown, [vec!["a", "b", "c"], vec!["e", "f"]]);
        assert_eq!(circle(&graph, &knots[0]), ["a", "b", "c", "a"]);
        assert_eq!(circle(&graph, &knots[1]), ["e", "f", "e"]);
    }

    #[test]
    fn a_graph_without_circles_has_no_knots() {
        let graph = graph(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"])]);
        assert!(knots(&graph).is_empty());
    }
}
