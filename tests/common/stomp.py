"""A client of STOMP 1.2 of the tests' own: what a server keeps is seen as it is, by another program than ours."""
import json, socket, sys, time

PORT, KIND, USER, PASSWORD = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
ESCAPES = (('\\', '\\\\'), ('\n', '\\n'), ('\r', '\\r'), (':', '\\c'))


class Client:
    def __init__(self, **headers):
        self.socket = socket.create_connection(('127.0.0.1', PORT))
        self.socket.settimeout(60)
        self.bytes, self.receipts = b'', 0
        login = {'login': USER, 'passcode': PASSWORD} if USER else {}
        host = '/' if KIND == 'rabbit' else '127.0.0.1'
        self.write('CONNECT', {'accept-version': '1.2', 'host': host, **login, **headers})
        assert self.read()[0] == 'CONNECTED'

    def write(self, command, headers, body=b''):
        def escape(text):
            for plain, escaped in ESCAPES if command != 'CONNECT' else ():
                text = text.replace(plain, escaped)
            return text
        lines = ''.join(f'{escape(name)}:{escape(str(value))}\n' for name, value in headers.items())
        self.socket.sendall(f'{command}\n{lines}\n'.encode() + body + b'\0')

    def read(self):
        def more():
            piece = self.socket.recv(1 << 16)
            assert piece, f'the server has gone: {self.bytes!r}'
            self.bytes += piece
        while True:
            self.bytes = self.bytes.lstrip(b'\n')
            if b'\n\n' in self.bytes:
                break
            more()
        head, rest = self.bytes.split(b'\n\n', 1)
        command, *lines = head.decode().split('\n')
        headers = {}
        for line in lines:
            name, value = line.split(':', 1)
            if command != 'CONNECTED':
                for plain, escaped in reversed(ESCAPES):
                    name, value = name.replace(escaped, plain), value.replace(escaped, plain)
            headers.setdefault(name, value)
        self.bytes = rest
        if 'content-length' in headers:
            length = int(headers['content-length'])
            while len(self.bytes) <= length:
                more()
        else:
            while b'\0' not in self.bytes:
                more()
            length = self.bytes.index(b'\0')
        body, self.bytes = self.bytes[:length], self.bytes[length + 1:]
        assert command != 'ERROR', (headers, body)
        return command, headers, body

    def ask(self, command, headers, body=b''):
        """Waits for the receipt; what comes before it."""
        self.receipts += 1
        self.write(command, {**headers, 'receipt': self.receipts}, body)
        came = []
        while (frame := self.read())[0] != 'RECEIPT' or frame[1]['receipt-id'] != str(self.receipts):
            came.append(frame)
        return came


def to(name, topic=False):
    if KIND == 'artemis':
        return {'destination': name, 'destination-type': 'MULTICAST' if topic else 'ANYCAST'}
    if KIND == 'rabbit':
        return {'destination': f'/amq/queue/{name}'}
    return {'destination': f'/{"topic" if topic else "queue"}/{name}'}


client = Client()


def send(name, bodies, topic=False, **headers):
    """Sends bodies, in one transaction; `%` in a header is the body."""
    client.ask('BEGIN', {'transaction': 't'})
    for body in bodies:
        given = {key.replace('__', '-'): value.replace('%', body) for key, value in headers.items()}
        client.write('SEND', {**to(name, topic), **given, 'persistent': 'true', 'transaction': 't'}, body.encode())
    client.ask('COMMIT', {'transaction': 't'})


def take(name):
    """All that is there, in order: what a last message comes after."""
    end = f'end {time.time()}'
    # Classic delivers what is kept in memory only before or after what is not, by turns.
    client.ask('SEND', {**to(name), 'priority': '0', 'persistent': 'true'}, end.encode())
    where = {key.replace('destination-type', 'subscription-type'): value for key, value in to(name).items()}
    ahead = {'consumer-window-size': '-1'} if KIND == 'artemis' else {}
    came = client.ask('SUBSCRIBE', {**where, **ahead, 'id': '1', 'ack': 'client'})
    taken = []
    while True:
        _, headers, body = came.pop(0) if came else client.read()
        if body == end.encode():
            client.ask('ACK', {'id': headers['ack']})
            client.ask('UNSUBSCRIBE', {'id': '1'})
            return taken
        taken.append((headers, body))
        if len(taken) % 50 == 0:
            came += client.ask('ACK', {'id': headers['ack']})


def drain(name):
    for headers, body in take(name):
        print(headers.get('mq-id', ''), body.decode().strip(), sep='\t')
