"""The relay server: a store-and-forward mailbox for key invitations that never sees plaintext.

"Relay server" is meant as in the secure-credential-transfer draft of the IETF: two phones that
are not online at the same time leave sealed messages for each other (specs/relay.md).
"""
