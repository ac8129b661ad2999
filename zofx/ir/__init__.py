"""The intermediate representation: programs, their invariants, and the tools that edit them."""
