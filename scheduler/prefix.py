"""Names of prompt blocks: a salted hash chain, so that a name stands for the whole prefix.

sha256, because a forged collision would read another caller's cache; the salt keeps tenants apart.
"""

from array import array
from hashlib import sha256


def block_keys(prompt: tuple[int, ...], salt: str, block_size: int) -> list[bytes]:
    """One key per full block of the prompt; key i depends on the salt and on all tokens up to i."""
    ids = array("q", prompt)
    parent = sha256(salt.encode()).digest()
    keys = []
    for end in range(block_size, len(prompt) + 1, block_size):
        parent = sha256(parent + ids[end - block_size : end].tobytes()).digest()
        keys.append(parent)
    return keys
