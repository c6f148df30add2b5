//! What `pyro mcp` is made of.

#[cfg_attr(not(test), expect(dead_code, reason = "the server that uses it is not there yet"))]
mod roots;
