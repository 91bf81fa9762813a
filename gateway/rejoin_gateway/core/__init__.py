"""The core that all APIs share: sessions, messages, attachments and request contexts. No HTTP.

backend         the ports; admit, publish, replay
session         one session: send, approve, interrupt, resume, read, fork, delete
directory       what one caller may look up by id: agents, sessions, runs, artifacts, files
message_input   messages and decisions as clients send them, checked
unread_answers  interrupts a run whose answer the client has given up
step_replay     answers a run's message again from one of the steps of its answer, in a fork
attachments     files of messages: checked and stored; `remote_fetch` gets URLs
agent_context   the request context that an agent wants, from headers or body, checked and sealed
"""
